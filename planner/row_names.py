"""What the planning table's rows are called in texts, in the order in which they stand there."""

from __future__ import annotations

NAMES = {
    "do_nothing": "do nothing (computed)",
    "constant_guess": "constant guess, flawless hands (computed)",
    "random_walk": "random walk",
    "true_frames": "ceiling: true frames → inverse dynamics → env",
    "no_memory": "no memory, base",
    "no_memory_observed": "no memory, base, `condition_on=observed`",
    "equal_steps": "no memory, as many more training steps as the loop",
    "first_frame": "`memory=first_frame`, finetuned with it",
    "anchor": "`memory=anchor`, finetuned with it",
    "context": "`memory=context`, finetuned with it",
    "retrieval": "`memory=retrieval`, finetuned with it",
    "temp_lora_no_loop": "Temp-LoRA without the loop",
    "temp_lora_no_loop_observed": "Temp-LoRA without the loop, `condition_on=observed`",
    "temp_lora_paper_no_loop": "Temp-LoRA by the paper's recipe, without the loop",
    "temp_lora_paper": "Temp-LoRA by the paper's recipe, its own loop",
    "temp_lora_original": "Temp-LoRA on input → output with text, its own loop",
    "temp_lora_sequence": "Temp-LoRA on the whole sequence, its own loop",
    "full": "**Temp-LoRA + slow-fast loop**",
    "full_observed": "Temp-LoRA + slow-fast loop, `condition_on=observed`",
    "oracle": "ceiling: the true end of each chunk as one more past frame, finetuned with it",
    "shuffled": "control: loop weights, another episode's Θ",
    "theta_off": "diagnostic: loop weights, Θ off",
}
