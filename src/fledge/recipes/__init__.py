"""Recipes: which stages run in which order, as YAML, and the small runner that makes their artifacts."""
