"""The explorer: a page in which one types a prompt, sees it, changes it and asks about it.

`session.py` knows the models and the work, without HTTP; `server.py` and `widget.py` bring it to a
browser and into a notebook. The pictures are the pages of `view/page`. All that is computed is
computed by the public calls, which the explorer shows as Python.
"""
