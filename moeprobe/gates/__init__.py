"""Reference gates: the published ways from logits to experts and routing weights, one small function each.

    noisy_top_k          noisy top-k, 2017      (1701.06538)
    gshard_top2          GShard's top-2         (2006.16668; NLLB's, 2207.04672)
    switch_top1          Switch's top-1         (2101.03961)
    softmax_top_k        softmax, then top-k    (2401.04088; Qwen, OLMoE, DBRX)
    grouped_sigmoid      sigmoid, bias, groups  (2412.19437)
    biased_sqrtsoftplus  sqrt(softplus), bias   (DeepSeek-V4)
    hash_table           a table of token ids   (DeepSeek-V4's first layers; 2106.04426)

A gate takes logits [tokens, experts]; the product with the hidden state, and its dtype, are the caller's. Each equals
transformers' own router of that kind bit for bit, where there is one (``tests/gates``). The laboratory, the planted
faults and the tests share them.
"""
