from fledge.model.heads import LanguageModel
import torch
def packed(model: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    return model
