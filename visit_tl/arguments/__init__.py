"""Checks of the arguments of public calls, made at the call: `@checked` and kinds of arguments.

This package imports nothing of models, graphs or figures: a kind of argument gives the classes that
it accepts as text.
"""
