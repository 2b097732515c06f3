"""Views of one Result: Markdown with figures, and a few lines for the terminal.

Everything here is a function of the saved Result; nothing is measured, no number
travels back out of text.
"""
