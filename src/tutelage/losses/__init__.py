"""Distances between a student and what it learns from: pure functions and thin classes."""

from collections.abc import Mapping

from tutelage.losses.attention import CWD, FSP, NST, AttentionTransfer
from tutelage.losses.binary import BinaryCrossEntropy, BinaryKD
from tutelage.losses.contrastive import CRD, CRDMemory
from tutelage.losses.correlation import DIST, MLKD
from tutelage.losses.decoupled import DKD, NKD, OFALogit
from tutelage.losses.embedding import EmbeddingCosine, EmbeddingMSE, MarginMSE, SimilarityKL
from tutelage.losses.factor import FactorTransfer
from tutelage.losses.hint import VID, ActivationBoundaries, FitNets
from tutelage.losses.labels import LabelSmoothing, TeacherFree
from tutelage.losses.language import (
    TAID,
    AdaptiveKL,
    AlphaBeta,
    JensenShannon,
    ReverseKL,
    SampledReverseKL,
    SkewKL,
    SkewReverseKL,
    TotalVariation,
    UniversalLogitDistance,
)
from tutelage.losses.layer_pairs import OFA, AuxiliaryHeads
from tutelage.losses.logit import KD, CrossEntropy, LogitMSE
from tutelage.losses.projected import SRD, VkD
from tutelage.losses.relational import (
    PKT,
    CorrelationCongruence,
    RKDAngle,
    RKDDistance,
    SimilarityPreserving,
)
from tutelage.losses.relations import MiniLMv2, TinyBERTAttention
from tutelage.losses.reuse import SimKD
from tutelage.losses.review import ReviewKD
from tutelage.losses.reweighted import ERKD, WSLD
from tutelage.losses.simcse import SimCSE
from tutelage.losses.spans import SpanLikelihood
from tutelage.losses.teacher_free import MutualLearning, PastSelf
from tutelage.losses.transformed import CTKD, TTM, WTTM, LogitStandardisation
from tutelage.losses.transformer import DistilBERTCosine, TinyBERTEmbedding, TinyBERTHidden
from tutelage.losses.values import (
    BoundedRegression,
    GaussianKL,
    GaussianNLL,
    SquaredError,
    ValueMSE,
)
from tutelage.objective import Loss

FAMILIES: Mapping[str, Mapping[str, type[Loss]]] = {
    "labels": {
        "cross_entropy": CrossEntropy,
        "label_smoothing": LabelSmoothing,
        "teacher_free": TeacherFree,
    },
    "logit": {
        "kd": KD,
        "logit_mse": LogitMSE,
        "ctkd": CTKD,
        "dist": DIST,
        "dkd": DKD,
        "er_kd": ERKD,
        "logit_standardisation": LogitStandardisation,
        "mlkd": MLKD,
        "nkd": NKD,
        "ofa_logit": OFALogit,
        "ttm": TTM,
        "wsld": WSLD,
        "wttm": WTTM,
    },
    "feature": {
        "activation_boundaries": ActivationBoundaries,
        "attention_transfer": AttentionTransfer,
        "crd": CRD,
        "crd_memory": CRDMemory,
        "cwd": CWD,
        "factor_transfer": FactorTransfer,
        "fitnets": FitNets,
        "fsp": FSP,
        "nst": NST,
        "ofa": OFA,
        "review_kd": ReviewKD,
        "simkd": SimKD,
        "srd": SRD,
        "vid": VID,
        "vkd": VkD,
    },
    "relational": {
        "correlation_congruence": CorrelationCongruence,
        "pkt": PKT,
        "rkd_angle": RKDAngle,
        "rkd_distance": RKDDistance,
        "similarity_preserving": SimilarityPreserving,
    },
    "transformer": {
        "distilbert_cosine": DistilBERTCosine,
        "minilm_v2": MiniLMv2,
        "tinybert_attention": TinyBERTAttention,
        "tinybert_embedding": TinyBERTEmbedding,
        "tinybert_hidden": TinyBERTHidden,
    },
    "embedding": {
        "embedding_cosine": EmbeddingCosine,
        "embedding_mse": EmbeddingMSE,
        "margin_mse": MarginMSE,
        "similarity_kl": SimilarityKL,
        "simcse": SimCSE,
    },
    "language": {
        "adaptive_kl": AdaptiveKL,
        "alpha_beta": AlphaBeta,
        "jensen_shannon": JensenShannon,
        "reverse_kl": ReverseKL,
        "sampled_reverse_kl": SampledReverseKL,
        "skew_kl": SkewKL,
        "skew_reverse_kl": SkewReverseKL,
        "taid": TAID,
        "total_variation": TotalVariation,
        "universal_logit_distance": UniversalLogitDistance,
        "span_likelihood": SpanLikelihood,
    },
    "binary": {
        "binary_cross_entropy": BinaryCrossEntropy,
        "binary_kd": BinaryKD,
    },
    "values": {
        "squared_error": SquaredError,
        "value_mse": ValueMSE,
        "bounded_regression": BoundedRegression,
        "gaussian_nll": GaussianNLL,
        "gaussian_kl": GaussianKL,
    },
    "teacher_free": {
        "auxiliary_heads": AuxiliaryHeads,
        "mutual_learning": MutualLearning,
        "past_self": PastSelf,
    },
}
LOSSES: Mapping[str, type[Loss]] = {
    name: loss for family in FAMILIES.values() for name, loss in family.items()
}
