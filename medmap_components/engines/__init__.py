"""Ignite engines and handlers with which the bundles train, validate and segment."""

from medmap_components.engines.about_weights import spacing_of_weights
from medmap_components.engines.alignment_warmup import AlignmentWarmup
from medmap_components.engines.anchor_monitor import AnchorMonitor
from medmap_components.engines.batches import PrepareStudyBatch
from medmap_components.engines.checkpoints import BestWeights, FinalWeights, ResumableState
from medmap_components.engines.co_training import Adversary, CoTrainingTrainer
from medmap_components.engines.distillation_trainer import DistillationTrainer
from medmap_components.engines.fused_warmup import FusedWarmup
from medmap_components.engines.knobs import PASSED_BY_MONAI, check_knobs, refuse_unknown_keys
from medmap_components.engines.latent_gap import LatentGap, LatentSample
from medmap_components.engines.mixed_precision import CpuMixedPrecision, MissingModalityEvaluator
from medmap_components.engines.monitors import EngineProgressBar, EpochMeans, LossTerms
from medmap_components.engines.open_evaluator import open_evaluator
from medmap_components.engines.seeding import EpochSeed
from medmap_components.engines.start import check_start
from medmap_components.engines.studies import StudyDataset, StudyError, StudyEvaluator
from medmap_components.engines.study_report import StudyReport
from medmap_components.engines.subset_evaluator import SubsetEvaluator, SubsetEvents, SubsetProgressBar
from medmap_components.engines.subset_scores import SubsetScores
from medmap_components.engines.teacher_stage import TeacherStage
from medmap_components.engines.trainer import MissingModalityTrainer
from medmap_components.engines.weights import WeightsLoader, read_weights, save_atomically, set_aside

__all__ = [
    "PASSED_BY_MONAI",
    "Adversary",
    "AlignmentWarmup",
    "AnchorMonitor",
    "BestWeights",
    "CoTrainingTrainer",
    "CpuMixedPrecision",
    "DistillationTrainer",
    "EngineProgressBar",
    "EpochMeans",
    "EpochSeed",
    "FinalWeights",
    "FusedWarmup",
    "LatentGap",
    "LatentSample",
    "LossTerms",
    "MissingModalityEvaluator",
    "MissingModalityTrainer",
    "PrepareStudyBatch",
    "ResumableState",
    "StudyDataset",
    "StudyError",
    "StudyEvaluator",
    "StudyReport",
    "SubsetEvaluator",
    "SubsetEvents",
    "SubsetProgressBar",
    "SubsetScores",
    "TeacherStage",
    "WeightsLoader",
    "check_knobs",
    "check_start",
    "open_evaluator",
    "read_weights",
    "refuse_unknown_keys",
    "save_atomically",
    "set_aside",
    "spacing_of_weights",
]
