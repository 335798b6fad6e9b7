"""``dscsr schema``: the JSON schema of option files, for editors, or the same as a page of tables."""

import argparse
import json
from typing import Any

EPILOG = """\
Editors with a YAML language server complete and check an option file that says where its schema is, as those in
options/ do:
  # yaml-language-server: $schema=schema.json
where
  dscsr schema > schema.json
has written it beside the file."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the ``dscsr`` parser."""
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON schema of option files",
        description="Print the JSON schema of option files, for editors: keys, types, ranges, defaults, meanings.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--markdown", action="store_true", help="print tables of all options instead (docs/options.md)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from dscsr_arch import CSSRNet
    from dscsr_arch.architecture import architectures
    from dscsr_model.host import registration
    from dscsr_model.options import schema

    networks = {**{name: one.network for name, one in architectures().items()}, "CSSRNet": CSSRNet}
    losses = registration.losses()
    if args.markdown:
        print(schema.markdown(networks, losses), end="")
    else:
        print(json.dumps(schema.json_schema(networks, losses), indent=1, ensure_ascii=False))
    return 0
