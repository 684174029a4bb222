"""A run that ends before its time, in every bundle."""

import pytest
from ignite.engine import Events

from tests.bundles.bundle import SMALLEST, Bundle


@pytest.mark.parametrize("name", list(SMALLEST))
def test_an_interrupted_training_leaves_its_state(name, data_of, tmp_path):
    keys = {**SMALLEST[name], "dataset_dir": str(data_of[name]), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    keys |= {"num_workers": 0, "validation": 1, "val_interval": 0, "epoch_length": 2, "device": "cpu"}
    trainer = Bundle(name).parse("train", **keys).get_parsed_content("train#trainer")

    @trainer.on(Events.ITERATION_COMPLETED)
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert (tmp_path / "checkpoint_last.pt").is_file()
