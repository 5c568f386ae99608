"""Limits: one resource a file, who watches them, and what is said of a guest that is past one."""
