"""Phase 2: from words to classes to figures. Asks no LMM."""
