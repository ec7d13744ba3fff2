"""The Open Inference Protocol v2 over HTTP, as Triton, KServe and OpenVINO Model Server speak it."""

from hierax.serve.protocol.routes import router

__all__ = ["router"]
