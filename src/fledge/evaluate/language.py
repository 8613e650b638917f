"""tmp"""
import math, torch, numpy as np
from types import SimpleNamespace
from fledge.data.packing import Example, pack, collate
from fledge.evaluate.statistics import Estimate
from fledge.objectives.language import logprobs_and_entropy
@torch.no_grad()
def evaluate_language(model, tokenizer, documents, *, length):
    model.eval(); nats=0; n=0
    ex=[Example(np.concatenate([[tokenizer.document_id],ids,[tokenizer.document_id]]).astype(np.int32),np.ones(len(ids)+2,bool)) for ids in tokenizer.encode_batch([d.text for d in documents])]
    rows=pack(ex,length,split=True)
    for i in range(0,len(rows),16):
        b=collate(rows[i:i+16]); o=model(b["ids"],b["positions"],b["documents"])
        lp,_=logprobs_and_entropy(o,b["targets"]); nats-=float(lp.sum())
    by=sum(len(d.text.encode()) for d in documents)
    v=nats/math.log(2)/by
    return SimpleNamespace(bits_per_byte=Estimate(v,v,v,len(documents)),calibration_error=Estimate(0,0,0,1),reliability={})
