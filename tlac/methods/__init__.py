"""The methods: which questions are asked about an image. One module each, found by entry points."""
