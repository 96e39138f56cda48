"""The buyer: brings a model or wants one, and learns what the owners' policies release.

    from parties.buyer import Buyer, Schedule

    buyer = Buyer("~/.enclave")
    result = buyer.evaluate("model.onnx", data=["clinic/patients"], encoding="patients.toml", metrics=["auc"])
    result.auc_

Verbs are those of the command line. Nothing here prints; long work reports to the `progress` callable.
"""

from parties.buyer.client import Buyer
from parties.buyer.results import Cost, JobResult, JobSummary, Progress, Quote, Withdrawal
from parties.buyer.specs import Schedule

__all__ = ["Buyer", "Cost", "JobResult", "JobSummary", "Progress", "Quote", "Schedule", "Withdrawal"]
