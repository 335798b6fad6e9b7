import pickle

from dscsr_model.data.paired_crop_dataset import PairedCropDataset
from dscsr_model.data.sample_keys import SampleKey, takes_sample_keys


def test_travels_between_processes():
    assert pickle.loads(pickle.dumps(SampleKey(3, 1, 2))) == SampleKey(3, 1, 2)


def test_who_takes_sample_keys():
    assert takes_sample_keys(PairedCropDataset)
    assert not takes_sample_keys([1, 2])
