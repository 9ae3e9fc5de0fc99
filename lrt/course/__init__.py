"""The course: running the notebooks, the page of a run, exercises, Colab."""
