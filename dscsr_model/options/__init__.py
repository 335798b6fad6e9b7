"""What can stand in an option file: one class per section, one declaration per option.

The option check, the models' and datasets' defaults, ``dscsr schema`` and docs/options.md are made of these.
"""
