"""What people look at: the page of a run or of several, and figures for a paper.

Knows finished runs and the files beside them; does not know how runs are made.
"""
