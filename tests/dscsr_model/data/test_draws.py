import pickle

from dscsr_model.data.draws import Draw, takes_draws
from dscsr_model.data.paired_crop_dataset import PairedCropDataset


def test_travels_between_processes():
    assert pickle.loads(pickle.dumps(Draw(3, 1, 2))) == Draw(3, 1, 2)


def test_who_takes_draws():
    assert takes_draws(PairedCropDataset)
    assert not takes_draws([1, 2])
