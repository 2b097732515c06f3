"""The nouns that are saved: Router, Evidence, Finding, Check, Result. Plain numbers only, no tensors."""
