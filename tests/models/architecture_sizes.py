"""Sizes that make any causal language model of transformers tiny: one table for all, a few exceptions for each.

A field of `SMALL` is used where the architecture's configuration has it and gives it a value by default: a default of
None mostly means "not this part" or "work it out from the others", and both should stay so.
"""

from typing import Any

VOCABULARY = 160
LAYERS = 3
D_MODEL = 64
HEADS = 4
HEAD_DIM = D_MODEL // HEADS
CONTEXT = 128

# How configurations name their number of layers; `BOTH_STACKS` are the two stacks of an encoder-decoder.
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
BOTH_STACKS = ("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers")


def _each(value: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, value)


SMALL: dict[str, Any] = {
    **_each(VOCABULARY, "vocab_size", "vocab_size_per_layer_input"),
    **_each(LAYERS, *LAYER_COUNTS, *BOTH_STACKS),
    **_each(D_MODEL, "hidden_size", "n_embd", "d_model", "emb_dim", "embedding_dim", "word_embed_proj_dim"),
    **_each(D_MODEL, "hidden_size_global"),
    **_each(32, "embedding_size", "dim_model_base", "router_hidden_size", "pronunciation_embed_dim", "shape_embed_dim"),
    **_each(D_MODEL, "lru_width", "input_embedding_size", "output_embedding_size"),
    **_each(HEADS, "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    **_each(HEADS, "decoder_attention_heads", "encoder_attention_heads", "swa_num_attention_heads"),
    **_each(HEADS, "num_decoder_attention_heads", "num_encoder_attention_heads"),
    **_each(HEADS // 2, "num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"),
    **_each(HEADS // 2, "num_global_key_value_heads"),
    **_each(HEAD_DIM, "head_dim", "dim_head", "d_head", "kv_channels", "swa_head_dim", "global_head_dim"),
    "attention_head_size": HEAD_DIM,
    **_each(96, "intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner", "d_ff", "dim_ff", "dff", "d_inner"),
    **_each(96, "decoder_ffn_dim", "encoder_ffn_dim", "feed_forward_size", "intermediate_size_mlp"),
    **_each(96, "dense_intermediate_size", "shared_intermediate_size"),
    **_each(CONTEXT, "max_position_embeddings", "n_positions", "max_seq_len", "context_length", "n_ctx"),
    **_each(CONTEXT, "max_target_positions", "max_source_positions", "original_max_position_embeddings"),
    # Encoders that can also be decoders are causal only then.
    "is_decoder": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Smaller than the 12 tokens of a test, so that the window is seen to move.
    **_each(8, "sliding_window", "sliding_window_size", "attention_window_size", "window_size", "local_attention"),
    **_each(8, "attention_chunk_size", "keep_window_size", "local_attention_window_len", "rel_extent"),
    # The length from which attention is made sharper.
    **_each(4, "floor_scale", "log_scaling_n_floor"),
    # Small caps, so that soft-capping changes the numbers of a tiny model too.
    **_each(2.0, "attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"),
    # Mostly 1 by default, where a test would not notice that they are left out.
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.5,
    **_each(0.6, "key_multiplier", "attention_in_multiplier", "ssm_out_multiplier", "lm_head_multiplier"),
    **_each(1.4, "attention_out_multiplier", "ssm_in_multiplier", "full_attn_alpha_factor", "mlp_beta_factor"),
    **_each(1.4, "linear_attn_beta_factor", "routed_scaling_factor", "moe_routed_scaling_factor", "route_scale"),
    **_each(1.4, "router_scaling_factor"),
    "query_pre_attn_scalar": HEAD_DIM,
    "rotary_dim": HEAD_DIM // 2,
    # Mixtures of experts: two of four, and a dense first layer where the architecture has one.
    **_each(4, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "zero_expert_num"),
    **_each(2, "num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"),
    **_each(32, "moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"),
    **_each(32, "shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"),
    **_each(1, "n_group", "topk_group", "num_expert_group", "n_shared_experts", "num_shared_experts"),
    **_each(1, "first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"),
    # Latent attention: a head of queries is a part without and a part with rotation.
    "q_lora_rank": 24,
    **_each(16, "kv_lora_rank", "o_lora_rank"),
    **_each(8, "qk_nope_head_dim", "qk_rope_head_dim"),
    "v_head_dim": 12,
    "index_head_dim": 16,
    "index_n_heads": 2,
    "index_topk": 4,
    # State spaces, linear attention, convolutions.
    **_each(8, "state_size", "mamba_d_state", "ssm_state_size", "time_step_rank", "mamba_dt_rank"),
    **_each(2, "expand", "mamba_expand"),
    **_each(4, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads"),
    **_each(32, "mamba_d_head", "mamba_head_dim", "mamba_headdim"),
    **_each(1, "mamba_n_groups", "n_groups", "mamba_ngroups"),
    **_each(16, "chunk_size", "mamba_chunk_size"),
    "linear_num_key_heads": 2,
    **_each(4, "linear_num_value_heads", "linear_num_heads"),
    **_each(16, "linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"),
    # What only one family has.
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "altup_num_inputs": 2,
    "o_groups": 2,
    "n_layers_per_attn_res_block": 2,
    "image_size": 32,
    "patch_size": 8,
}

# Parts that several of the exceptions share.
_LINEAR, _FULL, _SLIDING = "linear_attention", "full_attention", "sliding_attention"
_HYBRID = {"layer_types": [_LINEAR, _FULL, _LINEAR]}
_HEAD_DIM = {"head_dim": HEAD_DIM}
_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
# The last layers use the keys and values of earlier ones.
_KEYS_SHARED = {
    "num_hidden_layers": 4,
    "layer_types": [_SLIDING, _FULL, _SLIDING, _FULL],
    "num_kv_shared_layers": 2,
}
_GEMMA4 = {"global_head_dim": 2 * HEAD_DIM}
# The layers with a sliding window have sizes of their own, which are not fields.
_DOTS3_NOTE = {
    **_each(HEADS, "num_key_value_heads", "swa_num_attention_heads", "swa_num_key_value_heads"),
    **_each(HEAD_DIM, "head_dim", "swa_head_dim", "swa_kv_lora_rank"),
    "swa_q_lora_rank": 24,
    "swa_qk_nope_head_dim": 12,
    "swa_v_head_dim": 12,
}
# Its n-gram embeddings and its index of keys are off by default.
_QWEN4_EXP = {
    "ple_layer_ids": [1],
    "ngram_vocab_size_base": 50,
    "heads_per_ngram": 2,
    "ple_embed_dim": D_MODEL,
    "eos_token_id": 2,
    "hc_lowrank": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_DIM,
    "indexer_budget": 4,
    "indexer_compress_ratio": 2,
}

# What a type needs beyond `SMALL`. A dictionary goes to the configuration nested under that name.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    # With a cache it asks its configuration for a number of layers that only the nested ones have.
    "blt": {"encoder_hash_byte_group_vocab": 200, "use_cache": False},
    "cohere_compass_text": {"rope_parameters": {_FULL: {"rope_type": "default", "rope_theta": 10000.0}}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 1.0}, "ffn_config": {"moe_top_k": 2}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {
        "layer_types": [_SLIDING, "compressed_sparse_attention", "heavily_compressed_attention"],
        "mlp_layer_types": ["hash_moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note": {
        "text_config": _DOTS3_NOTE,
        "vision_config": {"adapter_in_dim": D_MODEL, "adapter_out_dim": D_MODEL},
        "audio_config": {"adapter_input_size": D_MODEL, "adapter_out_dim": D_MODEL},
    },
    "dots3_note_text": _DOTS3_NOTE,
    "falcon_h1": {
        "mamba_d_ssm": 2 * D_MODEL,
        "mlp_multipliers": [0.6, 1.4],
        "ssm_multipliers": [0.6, 1.4, 0.8, 1.2, 1.5],
    },
    "gemma3n_text": _KEYS_SHARED | {"activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0]},
    "gemma4": {"text_config": _GEMMA4 | _KEYS_SHARED},
    "gemma4_text": _GEMMA4 | _EXPERTS | {"enable_moe_block": True, "num_kv_shared_layers": 0},
    "gemma4_unified": {"text_config": _GEMMA4},
    "gemma4_unified_text": _GEMMA4,
    "glm_moe_dsa": {"indexer_types": ["full", "full", "shared"]},
    "granitemoehybrid": _HYBRID,
    "hunyuan_v1_dense": _HEAD_DIM,
    "hunyuan_v1_moe": _HEAD_DIM,
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "laguna": {
        "layer_types": [_FULL, _SLIDING, _FULL],
        "sliding_window": 8,
        "num_attention_heads_per_layer": [4, 8, 4],
    },
    "lfm2": {"layer_types": ["conv", _FULL, "conv"]},
    "lfm2_moe": {"layer_types": ["conv", _FULL, "conv"]},
    "mamba2": {"head_dim": 2 * D_MODEL // HEADS},
    "mimo_v2_flash": {"head_dim": 24},  # a third of it is rotated
    "minimax_m3_vl_text": {
        "layer_types": [_FULL, "minimax_m3_sparse", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "index_block_size": 2,
        "index_topk_blocks": 3,
    },
    "ministral": _HEAD_DIM,
    # Its layers that attend to an image are skipped where there is none.
    "mllama": {"text_config": {"num_hidden_layers": 4, "cross_attention_layers": [1]}},
    "nemotron": {"num_key_value_heads": HEADS // 2},
    "qwen4_exp": {"text_config": _QWEN4_EXP},
    "qwen4_exp_text": _QWEN4_EXP,
    # Up to 64 tokens, a chunk, it attends to all of them: hashing would be random and see later tokens.
    "reformer": {"axial_pos_shape": (8, 16), "axial_pos_embds_dim": (16, 48)},
    "roc_bert": {"pronunciation_vocab_size": 50, "shape_vocab_size": 50},
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "xlstm": {"qk_dim_factor": 1.0},  # its cache rounds smaller keys up, the layers do not
    "xmod": {"default_language": "en_XX"},
    # Layers of one kind share their weights, so that kind has to come twice.
    "zamba": {"num_hidden_layers": 5, "layers_block_type": [_LINEAR, _LINEAR, "hybrid", _LINEAR, "hybrid"]},
    "zamba2": {"num_hidden_layers": 5, "layers_block_type": [_LINEAR, "hybrid", _LINEAR, _LINEAR, "hybrid"]},
    "zaya": {"num_experts_per_tok": 1, "sliding_window": 8, "layer_types": ["hybrid", "hybrid_sliding", "hybrid"]},
}

# Why a type is not built as a decoder.
_DRAFTER = "drafts tokens for another model and reads that model's keys and values, not tokens"
_SOUND = "predicts codebooks of sound, and has no text decoder of its own type"
EXCLUDED: dict[str, str] = {
    "cpmant": "reads a prompt in both directions: a later token changes the logits before it",
    "gemma3n": "its image tower needs the package timm; its decoder is that of gemma3n_text",
    "gemma4_assistant": _DRAFTER,
    "gemma4_unified_assistant": _DRAFTER,
    "musicgen": _SOUND,
    "musicgen_melody": _SOUND,
    "prophetnet": "its n-gram streams leak in transformers 5.23: a later token changes the logits before it",
}
