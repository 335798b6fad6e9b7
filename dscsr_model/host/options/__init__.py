"""The check of option files: what the declarations in `dscsr_model.options` cannot say, BasicSR's traps above all."""
