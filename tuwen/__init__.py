"""tuwen (图文): from image-text pairs to a Chinese retrieval model that can be trusted.

    import tuwen

    retriever = tuwen.load("models/finetuned")
    texts = retriever.encode_texts(["一只橘猫趴在窗台上"])
    images = retriever.encode_images(["cat.jpg", "dog.jpg"])
    rows, cosines = tuwen.top_k(texts, images, k=2)

The names in `__all__` are the face of the library. Each is imported when it is first used (PEP 562), so that
`import tuwen` itself loads nothing and takes no time.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Params", "check", "evaluate", "load", "load_params", "predict", "top_k"]

if TYPE_CHECKING:
    from tuwen.core.params import Params, load_params
    from tuwen.evaluation.external.measure import evaluate_vectors as evaluate
    from tuwen.prediction.check import check_result_file as check
    from tuwen.prediction.predict import predict
    from tuwen.retrieval.retriever import load_retriever as load
    from tuwen.retrieval.search import top_k
else:
    # name here -> where it is defined; the same as above, for machines
    _PLACES = {
        "Params": "tuwen.core.params.Params",
        "load_params": "tuwen.core.params.load_params",
        "evaluate": "tuwen.evaluation.external.measure.evaluate_vectors",
        "check": "tuwen.prediction.check.check_result_file",
        "predict": "tuwen.prediction.predict.predict",
        "load": "tuwen.retrieval.retriever.load_retriever",
        "top_k": "tuwen.retrieval.search.top_k",
    }

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in _PLACES:
            raise AttributeError(f"tuwen has no {name!r}; it has {', '.join(__all__)}", name=name)
        module, _, attribute = _PLACES[name].rpartition(".")
        try:
            value = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "tuwen").partition(".")[0] == "tuwen":
                raise
            message = f"tuwen.{name} needs {error.name}, which is not installed: pip install 'tuwen[data]'"
            raise ImportError(message, name=error.name) from None
        globals()[name] = value  # from now on an attribute like any other
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
