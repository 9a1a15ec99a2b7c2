"""Varying the requests of cases: by rules (`rules`), and by asking a language model (`llm`).

A variation asks for the same calls in other words. What the calls copy from the request stays in it (`values`).
"""
