"""Other people's masks, compared with ours."""
