"""Networks inside a model: what they are trained on and how, what they are measured against, who is taught."""
