import torch


class GPUModelRunner:
    def _execute_mm_encoder(self, scheduler_output):
        images = [i for chosen in scheduler_output.scheduled_encoder_inputs.values() for i in chosen]
        torch.cuda.work_us(900 * len(images))
        return images

    def propose_draft_token_ids(self, drafts):
        torch.cuda.work_us(7 * drafts)
