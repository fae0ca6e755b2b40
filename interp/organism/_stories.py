"""Everyday documents of the model organism: short stories with names, pronouns and a recurring thing.

A story follows one person and one thing through a place: who it is, what the weather and the place are like, what
happens to the thing, whom the person meets, and how it ends. The first sentence fixes the person, the pronoun, the
thing and the place. The later sentences agree with it, so a lower loss on late tokens needs memory, not only grammar.
"""

from random import Random

from interp.organism.world import Split, words, world_digest

PEOPLE = (
    *((name, "she", "her") for name in ("Anna", "Clara", "Edith", "Greta", "Ida", "Julia", "Maud", "Nora")),
    *((name, "he", "his") for name in ("Adam", "Bruno", "Carl", "Emil", "Felix", "Hugo", "Oscar", "Peter")),
)
THINGS = words(
    "basket lantern ladder kettle umbrella violin wagon pillow blanket hammer mirror letter puppy barrel scarf map"
)
PLACES = words("garden forest kitchen harbour meadow station library barn square orchard bakery attic")
ADJECTIVES = words("large small heavy bright green quiet strange warm broken pretty")
MORNINGS = (
    "One morning {name} took {his} {adj} {thing} to the {place}.",
    "It was raining when {name} carried a {adj} {thing} into the {place}.",
    "{name} had lost {his} {adj} {thing} somewhere in the {place}.",
    "There was a {adj} {thing} in the {place}, and it belonged to {name}.",
)
MIDDLES = (
    "{He} put the {thing} on the ground and looked around.",
    "The {place} was full of people, but nobody saw {name}.",
    "{He} wanted to show the {thing} to {his} friend {friend}.",
    "The wind was cold, so {he} held the {thing} close.",
    "{name} sat down and ate {his} bread and cheese.",
    "A dog came by and sniffed at the {thing}.",
    "Somebody had left a note under the {thing}.",
    "{friend} came into the {place} and waved at {name}.",
    "{He} walked up and down the {place} and sang a song.",
)
ENDS = (
    "In the evening {he} went home with the {thing}, and {he} was happy.",
    "At last {name} gave the {adj} {thing} to {friend}.",
    "When the sun went down, {he} left the {place} and closed the door.",
    "{friend} laughed, and {name} laughed too.",
    "After that day {name} never forgot the {adj} {thing} again.",
)


def story(rng: Random, split: Split) -> str:
    """One story; a tenth of the combinations of person, thing and place are in the test split only."""
    while True:
        (name, he, his), thing, place = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(PLACES)
        if (world_digest("story", name, thing, place) % 10 == 0) is (split == "test"):
            break
    friend = rng.choice([person for person, _, _ in PEOPLE if person != name])
    sentences = [rng.choice(MORNINGS), *rng.sample(MIDDLES, rng.randint(2, 4)), rng.choice(ENDS)]
    person = {"name": name, "he": he, "He": he.capitalize(), "his": his}
    return " ".join(sentences).format(**person, adj=rng.choice(ADJECTIVES), thing=thing, place=place, friend=friend)
