from dscsr_arch import EDSR
from dscsr_arch.quantized_conv import inject
from dscsr_model.profiling.profile import Settings, profile
from dscsr_model.profiling.report import as_dict


def test_bits_and_bytes():
    plain = EDSR(num_feat=4, num_block=1, upscale=1).eval()
    parameters, quantized = sum(each.numel() for each in plain.parameters()), 3 * 4 * 4 * 9
    network = inject(plain, "pams", 4)
    settings = Settings(8, 8, variants=("eager",), device="cpu", seconds=0.01, flops=False, baseline=False)
    (figures,) = as_dict(profile({"net": network}, settings))["networks"]
    assert figures["weight_bytes"] == 4 * (parameters - quantized + 3) + quantized // 2  # 3 clips
    assert "3 convolutions in 4 bits: the weights take" in figures["notes"][0]
