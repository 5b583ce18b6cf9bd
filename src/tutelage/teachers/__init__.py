"""Teachers: where the outputs come from that a student learns from."""

from tutelage.teachers.base import Teacher
from tutelage.teachers.cached import CachedTeacher
from tutelage.teachers.module import ModuleTeacher

__all__ = ["CachedTeacher", "ModuleTeacher", "Teacher"]
