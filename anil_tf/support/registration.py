"""Makes `keras.saving.load_model` find the package's classes after a bare `import anil_tf`.

Keras finds a class in its registry only, and a class enters the registry when its module is
imported, which imports TensorFlow. `import anil_tf` must stay cheap, so as soon as Keras has been
imported, by whomever, the registry gets a stand-in for each class. A stand-in imports the class
when a model is loaded; that import puts the class itself into the registry.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "anil_tf"

# The registered classes and functions of each module.
REGISTERED = {
    "anil_tf.model": ("ANIL",),
    "anil_tf.maml": ("MAML", "BOIL"),
    "anil_tf.nil": ("NIL", "Pretrained"),
    "anil_tf.heads": ("LinearHead", "CosineClassifier", "KerasHead"),
    "anil_tf.losses": ("cross_entropy", "mean_squared_error"),
    "anil_tf.metrics": ("EpisodeAccuracy", "EpisodeAccuracyCI95", "EpisodeMeanSquaredError"),
    "anil_tf.normalization": ("BatchNormalization", "NormalizedConvolution"),
}


def register_with_keras() -> None:
    """Registers stand-ins with Keras: now if it is imported, else as soon as it is."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "saving"):
        _add_stand_ins(keras)
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())


class StandIn:
    """Takes the place of a class or function in Keras's registry until it is needed.

    Args:
        module: Module that defines it.
        name: Its name there.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def from_config(self, config: dict[str, Any]) -> Any:
        """An object of the class, from its configuration."""
        return self._real().from_config(config)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the class or function."""
        return self._real()(*args, **kwargs)

    def _real(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)


def _add_stand_ins(keras: ModuleType) -> None:
    registry = keras.saving.get_custom_objects()
    for module, names in REGISTERED.items():
        for name in names:
            # A class that is imported already has registered itself.
            registry.setdefault(f"{PACKAGE}>{name}", StandIn(module, name))


class _KerasFinder(MetaPathFinder):
    """Finds Keras as Python would, and registers the stand-ins when it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's specification, for Keras alone."""
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)  # the search below must not come back here
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)  # whoever asks may not import it yet
        if spec is not None and spec.loader is not None:
            spec.loader = _KerasLoader(spec.loader)
        return spec


class _KerasLoader(Loader):
    """A loader that adds the stand-ins after the real loader is done."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # resources, source code and the like

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Creates the module as the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Executes the module, then registers the stand-ins."""
        spec = module.__spec__
        if spec is not None:
            spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, _KerasFinder)]
        _add_stand_ins(module)
