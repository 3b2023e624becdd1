"""Every family of models that the installed TransformerLens lists, as small random models.

`sizes` shrinks a configuration of transformers, `overrides` holds what its rules cannot know,
`build` makes and opens the models, `measure` checks one of them, `table` writes
docs/compatibility.md, and `fuzz` calls everything on all of them.
"""
