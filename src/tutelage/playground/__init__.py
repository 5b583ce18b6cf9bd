"""Teacher and student in a browser: drawings, image files and soft targets."""

from tutelage.playground.folder import write_folder, write_single_file
from tutelage.playground.runtime import find_runtime
from tutelage.playground.serve import open_file, serve

__all__ = ["find_runtime", "open_file", "serve", "write_folder", "write_single_file"]
