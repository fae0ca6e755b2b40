"""The organism's world never changes."""

from interp.organism import world


def test_the_world_is_fixed():
    assert len(set(world.names())) == 24 * 12 * 16
    facts = [world.fact(relation, town) for town in world.towns() for relation in world.RELATIONS]
    assert len(facts) == 240
    assert world.world_digest(*world.towns(), *facts) == WORLD_DIGEST
    assert not set(world.DANGEROUS) & set(world.HARMLESS)


WORLD_DIGEST = 11904595958531685243
