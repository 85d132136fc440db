"""The checks of the exercises, a file a lesson. They say what is right: a learner who looks here has been warned."""
