"""The settings of descriptions."""

from pydantic import Field, PositiveInt

from interp.core.config import Config


class DescribeOptions(Config):
    """What a machine is shown of a latent, and how its description is tested."""

    shown: PositiveInt = Field(10, description="examples of a latent in the question for its description")
    tested: int = Field(12, ge=2, description="held-out examples of each latent, and as many texts where it is silent")
    per_request: PositiveInt = Field(5, description="texts in a question of the tests")
    control: bool = Field(True, description="test the description of another latent on the same texts")
    max_tokens: PositiveInt = Field(100, description="most tokens of a reply")
    parallel: PositiveInt = Field(4, description="requests at a time to an endpoint")
    seed: int = Field(0, description="seed of what is drawn: silent texts, marks, order, and control")
