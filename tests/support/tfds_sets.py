"""Data sets that tfds knows, made up for a test."""

from cls_jax.data import tfds as prepared


def odd_builder(examples, features, name="odd_set", splits=("train", "validation")):
    """A builder class of tfds that yields ``examples`` in each of ``splits``."""
    import tensorflow_datasets as tfds

    title = name

    class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = title
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            made = tfds.features.FeaturesDict(features(tfds.features))
            return tfds.core.DatasetInfo(builder=self, features=made)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            yield from enumerate(examples)

    return Odd


def stock(monkeypatch, cls):
    """Makes ``cls`` a data set that tfds knows, on a machine with TensorFlow."""
    import tensorflow_datasets as tfds

    monkeypatch.setattr(prepared, "_has_tensorflow", lambda: True)
    monkeypatch.setattr(tfds, "list_builders", lambda **_: [cls.name])
    monkeypatch.setattr(tfds, "builder_cls", lambda name: cls)
    monkeypatch.setattr(tfds, "builder", lambda name, **kwargs: cls(**kwargs))
