"""Teachers: where the outputs come from that a student learns from."""

from tutelage.teachers.base import HasParts, Teacher
from tutelage.teachers.cached import CachedTeacher
from tutelage.teachers.module import ModuleTeacher
from tutelage.teachers.remembered import RememberedTeacher

__all__ = ["CachedTeacher", "HasParts", "ModuleTeacher", "RememberedTeacher", "Teacher"]
