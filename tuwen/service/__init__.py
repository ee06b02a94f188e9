"""What people search by: the index of a model's vectors, and the server that answers from it.

Read the package index first. Then settings.py; engine.py, which computes, with packed_text.py, by which it
encodes what people ask, and feedback.py, by which marked answers move it; batches.py and answers.py, the steps of
a request between event loop and threads, with pictures.py, describe.py and search_metrics.py; messages.py and
read_request.py, what comes in and what is refused; gatekeeper.py, what every request passes; live.py, which model
answers now; app.py, the routes; serve.py and __main__.py, the process.
"""
