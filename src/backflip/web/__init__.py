"""The place where people judge, and where the owner of a study sees what their judgements are worth.

It shares nothing with training but the store. Import `create_app` from `backflip.web.app`.
"""
