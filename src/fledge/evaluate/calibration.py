"""tmp"""
import numpy as np
def preference_calibration(d):
    p=1/(1+np.exp(-np.abs(d))); hit=d>0
    return {"error": float(abs(p.mean()-hit.mean()))}
