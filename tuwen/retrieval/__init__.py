"""From a model and a set to vectors, and from vectors to ranks.

Read vectors.py first, then encode.py, few_captions.py and embed.py, search.py and shortlist.py, metrics.py and its
intervals, qb_norm.py, calibration.py, which makes probabilities of scores, retriever.py, and lookup.py, which asks
it; then
token_file.py, match_pairs.py and rerank.py, which order the first answers anew, rerank_choice.py, which chooses
how many of them, and packed_reranker.py, a re-ranker beside a gallery's tokens; attention tells what it reads in
an image, and quantised keeps a gallery in fewer bytes.
"""
