"""Task messages: encoding, decoding, signatures, and what is sent again."""
