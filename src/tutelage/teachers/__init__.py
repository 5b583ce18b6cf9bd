"""Teachers: sources of the outputs that a student learns from."""

from tutelage.teachers.base import CanCheck, HasParts, Teacher
from tutelage.teachers.cached import CachedTeacher
from tutelage.teachers.module import ModuleTeacher
from tutelage.teachers.precomputed import PrecomputedTeacher

__all__ = [
    "CachedTeacher",
    "CanCheck",
    "HasParts",
    "ModuleTeacher",
    "PrecomputedTeacher",
    "Teacher",
]
