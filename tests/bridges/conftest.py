"""An edit of the organism, and its folder."""

import pytest

import interp


@pytest.fixture(scope="session")
def organism_edit():
    """The organism, and a recipe that changes some of its replies and not others."""
    model = interp.load("organism")
    pairs = interp.organism.contrast("hostility", 16)
    contrast = interp.Contrast.of([(positive.user, negative.user) for positive, negative in pairs])
    direction = interp.find(model, contrast, "resid_post.2", "diff_means", bootstrap=0).best()[0].direction
    return model, interp.Recipe([("writers", interp.Project(direction))])


@pytest.fixture(scope="session")
def edit_folder(organism_edit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edit") / "recipe"
    organism_edit[1].save(folder)
    return folder
