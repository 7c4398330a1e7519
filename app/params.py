"""What ``POST /train`` accepts for each method: names, ranges, presets. The worker trains from exactly these values.

``METHODS`` is the one list of methods: the API knows them from here without the worker's code, and the worker finds
the code by the name (``worker.methods``).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import Fault, InvalidInput
from app.faults import PRINTABLE, faults_of
from app.wine import NAMES, QUALITY_RANGE

MAX_WEIGHTS = 20_000_000  # of all networks of a training: a checkpoint holds each three times, every few seconds
HEADS = 2  # of an attention, each with its share of the channels


class Params(BaseModel):
    """What every method takes beside its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}  # values that a preset has in the place of defaults; presets without any are like "default"

    preset: Literal["quick", "default", "best"] = Field("default", description="starting values; whatever else is given replaces its part of them")
    holdout: float = Field(0.2, ge=0, le=0.5, description="share of rows that training never sees; 0 makes the report in-sample")
    split_seed: int = Field(0, ge=0, lt=2**32, description="which rows the holdout gets")


class NetParams(Params):
    """The shape of the networks, most of them made of the same blocks, and the rows in a step."""

    channels: int = Field(32, ge=4, le=256, description="channels of a token")
    blocks: int = Field(2, ge=1, le=8, description="residual blocks")
    hidden: int = Field(256, ge=8, le=2048, description="width of the dense layers")
    batch: int = Field(256, ge=8, le=65_536, description="rows in a step")

    @property
    def trunk_weights(self) -> int:
        """About how many weights a trunk of this shape has."""
        return len(NAMES) * self.channels * self.hidden + self.hidden**2 + 10 * self.blocks * self.channels**2  # kernels of 5, two a block; attention has fewer

    @property
    def autoencoder_weights(self) -> int:
        """Likewise an autoencoder: a trunk, and a perceptron back."""
        return self.trunk_weights + self.hidden**2


class ClassifierParams(NetParams):
    """``classifier``: the quality of a wine from its measurements and type."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"classifier_steps": 200}}

    classifier_steps: int = Field(300, ge=0, le=100_000, description="Adam steps of the classifier")
    classifier_lr: float = Field(1e-3, gt=0, le=0.1, description="its learning rate; where it is trained alone, the one that falls to nothing from here")
    classifier_noise: float = Field(0.3, ge=0, le=2, description="noise on the fields that it is taught with; without it, it learns wines by heart")


class FromClassifierParams(ClassifierParams):
    """What a method takes that starts from a classifier."""

    classifier: str | None = Field(
        None, max_length=64, pattern=f"^{PRINTABLE}*$", description="model id or alias to take the classifier from; null trains one first"
    )


class GanParams(FromClassifierParams):
    """``gan``: a convolutional generator against the classifier turned discriminator."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"steps": 750, "classifier_steps": 200, "discriminators": 1, "autoencoder_steps": 300},
        "best": {"blend": 4},
    }

    blend: Literal[1, 2, 4, 8] = Field(1, description="GANs trained side by side; their generators pour in turn")
    autoencoder: bool = Field(
        True, description="an autoencoder trained beside them pours every other run of 16 rows: it errs otherwise, and the mix is of more use"
    )
    autoencoder_steps: int = Field(1500, ge=1, le=20_000, description="its steps, which are done again where they are interrupted")
    discriminators: int = Field(2, ge=1, le=8, description="of each GAN; its generator follows their mean")
    attention: bool = Field(
        True,
        description="every second discriminator has self-attention, the others convolutions: rows come nearer, and fewer training wines are remembered",
    )
    loss: Literal["r3gan", "ns", "wgan-gp"] = Field(
        "r3gan", description="r3gan: relativistic pairing with R1 and R2; ns: the traditional non-saturating loss; wgan-gp: Wasserstein with gradient penalty"
    )
    steps: int = Field(5000, ge=1, le=1_000_000, description="steps of each of the two networks")
    lr: float = Field(2e-3, gt=0, le=0.1, description="peak learning rate of both")
    warmup: int = Field(100, ge=0, le=100_000, description="steps until the peak")
    latent: int = Field(32, ge=16, le=256, multiple_of=16, description="latent dimensions")
    gamma: float = Field(0.3, ge=0, le=100, description="weight of R1 + R2 (r3gan); 0 leaves them out")
    penalty: float = Field(10.0, ge=0, le=1000, description="weight of the gradient penalty (wgan-gp)")
    penalty_every: int = Field(3, ge=1, le=100, description="steps between two gradient penalties, each weighted by as much")
    noise: float = Field(0.2, ge=0, le=2, description="instance noise at the start, on real and generated rows alike")
    noise_until: float = Field(0.7, ge=0, le=1, description="share of the steps after which that noise is gone")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged generator that is served")
    recalibrate: bool = Field(True, description="give the generated rows the marginals of the training rows")

    @model_validator(mode="after")
    def _fits_into_a_checkpoint(self) -> Self:
        weights = self.blend * (self.discriminators + 1) * self.trunk_weights + self.autoencoder * self.autoencoder_weights
        if weights > MAX_WEIGHTS:
            found = f"expected at most {MAX_WEIGHTS} weights in all, found about {weights}"
            raise ValueError(f"blend, discriminators, channels, blocks and hidden: {found}; make one of them smaller")
        return self

    @model_validator(mode="after")
    def _heads_share_the_channels(self) -> Self:
        if self.attention and self.discriminators > 1 and self.channels % HEADS:
            raise ValueError(
                f"channels: expected a multiple of {HEADS}, as many heads has attention, found {self.channels}; change it, or set attention to false"
            )
        return self


class AutoencoderParams(NetParams):
    """``autoencoder``: wines through a bottleneck and back; new ones come from a density of the space between."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"steps": 300}}  # no "best" of its own: longer training brings nothing

    steps: int = Field(1500, ge=1, le=1_000_000, description="Adam steps of encoder and decoder together")
    lr: float = Field(2e-3, gt=0, le=0.1, description="learning rate at the start; it falls to nothing")
    bottleneck: int = Field(10, ge=1, le=10, description="latent dimensions; fewer than the eleven measurements")
    noise: float = Field(0.3, ge=0, le=2, description="noise on the fields that are to be encoded, in their standard deviations")
    variational: bool = Field(False, description="encode into a normal distribution, and draw new wines' latents from the standard normal one")
    beta: float = Field(0.1, ge=0, le=100, description="weight of that distribution's divergence from the standard normal (variational)")
    components: int = Field(
        50, ge=1, le=200, description="of the Gaussian mixture of each type that latents are drawn from, at most: one for 25 training rows (not variational)"
    )
    output_noise: float = Field(1.0, ge=0, le=2, description="noise on the fields of new wines, in units of what reconstructions miss")
    recalibrate: bool = Field(True, description="give the generated rows the marginals of the training rows")

    @model_validator(mode="after")
    def _fits_into_a_checkpoint(self) -> Self:
        if (weights := self.autoencoder_weights) > MAX_WEIGHTS:
            raise ValueError(f"channels, blocks and hidden: expected at most {MAX_WEIGHTS} weights in all, found about {weights}; make one of them smaller")
        return self


class PoolParams(FromClassifierParams):
    """What a method takes that makes its rows in advance."""

    pool: int = Field(10_000, ge=20, le=100_000, description="rows, about, in the mix of the training rows; each type and quality gets at least 1 in 200")


class SearchParams(PoolParams):
    """``search``: points drawn at random, kept where the classifier is sure enough of a wanted quality."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"pool": 2000, "tries": 100_000, "classifier_steps": 200},
        "best": {"pool": 50_000, "tries": 10_000_000},
    }

    draw: Literal["uniform", "marginals"] = Field(
        "uniform", description="uniform: anywhere between the lowest and the highest training value; marginals: each measurement that of any training row"
    )
    confidence: float = Field(0.5, ge=0.05, le=0.999, description="the least probability of a quality, as the classifier sees it, for a point to be kept")
    tries: int = Field(1_000_000, ge=1000, le=100_000_000, description="points drawn for a type at most; a quality not hit once in a tenth of them is given up")
    qualities: list[Annotated[int, Field(ge=QUALITY_RANGE[0], le=QUALITY_RANGE[1])]] | None = Field(
        None,
        min_length=1,
        max_length=11,
        description="qualities to search for, refused if practically never hit; null: all of the training rows, as far as they are hit",
    )


class InversionParams(PoolParams):
    """``inversion``: noise, moved by gradient descent on the input until the classifier is sure of a wanted quality."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"quick": {"pool": 1000, "steps": 100, "classifier_steps": 200}, "best": {"pool": 50_000}}

    steps: int = Field(300, ge=1, le=10_000, description="steps of gradient descent on each row")
    step_size: float = Field(1.0, gt=0, le=10, description="of a step, in normal scores for a gradient of 1")
    prior: float = Field(0.0, ge=0, le=10, description="weight of half the squared length of a row's normal scores; 0 is the pure form")
    noise: float = Field(1.0, gt=0, le=3, description="standard deviation of the normal scores to start from")

    @model_validator(mode="after")
    def _settles(self) -> Self:
        if (pull := self.step_size * self.prior) > 1:
            raise ValueError(f"prior and step_size: expected a product of at most 1, found {pull:g}, which steps over the goal; make one of them smaller")
        return self


METHODS: dict[str, type[Params]] = {  # each is trained by worker/methods/<name>.py
    "gan": GanParams,
    "classifier": ClassifierParams,
    "autoencoder": AutoencoderParams,
    "search": SearchParams,
    "inversion": InversionParams,
}


def resolve(method: str, given: dict[str, Any]) -> Params:
    """The complete params of a job: what was given over its preset over the defaults.

    ``InvalidInput`` names each unknown name and each value out of range, with what was expected.
    """
    if method not in METHODS:
        detail = f"there is no method {method!r}"
        raise InvalidInput(detail, [Fault("/body/method", detail, expected=" or ".join(METHODS), found=method)])
    preset = given.get("preset", "default")
    values = METHODS[method].PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    try:
        return METHODS[method].model_validate(values | given)
    except ValidationError as error:
        faults = faults_of(error.errors(), at=("body", "params"), names=METHODS[method].model_fields)
        raise InvalidInput("; ".join(f.detail for f in faults[:3]), faults) from error
