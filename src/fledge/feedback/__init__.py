"""What people say about a model, kept for its training: demonstrations, rankings, ratings, corrections."""
