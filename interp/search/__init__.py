"""Search: recipes as plain data, so that a file, a sweep or a person can write, change and rebuild them.

In reading order:

- `direction_source`: where a direction comes from: pairs and a method, a saved folder, a token's lens, a latent.
- `strengths`: how strongly an edit acts: a number, a smooth kernel over layers, or one for each kind of writer.
- `edit_data`: one edit: an op by name, where it acts, and its options.
- `recipe_file`: `RecipeFile`, directions and edits as a YAML file has them, and the recipe built of them.
- `space`: a recipe in which some values are left to choose.
- `sweeps`: a space searched: trials, objectives and bounds, the front and its confirmation.
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
