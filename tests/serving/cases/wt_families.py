"""Training functions for models of several makers, as their users write them."""

import numpy as np


def _rows(run):
    frame = run.rows()
    return frame[list(run.features)], frame[run.target]


def sklearn(run):
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=5, random_state=run.seed).fit(*_rows(run))


def xgboost(run):
    from xgboost import XGBRegressor

    return XGBRegressor(n_estimators=5, random_state=run.seed).fit(*_rows(run))


def xgboost_folder(run):
    import mlflow.xgboost
    from xgboost import XGBRegressor

    model = XGBRegressor(n_estimators=5, random_state=run.seed).fit(*_rows(run))
    mlflow.xgboost.save_model(model, str(run.folder / "made"), model_format="ubj")
    return run.folder / "made"


def lightgbm(run):
    from lightgbm import LGBMRegressor

    return LGBMRegressor(n_estimators=5, verbose=-1, random_state=run.seed).fit(*_rows(run))


def lightgbm_folder(run):
    import mlflow.lightgbm
    from lightgbm import LGBMRegressor

    model = LGBMRegressor(n_estimators=5, verbose=-1, random_state=run.seed).fit(*_rows(run))
    mlflow.lightgbm.save_model(model.booster_, str(run.folder / "made"))
    return run.folder / "made"


def onnx(run):
    """The least squares line as a graph of one operation."""
    import mlflow.onnx
    from onnx import TensorProto, checker, helper, numpy_helper

    rows, target = _rows(run)
    weights = np.linalg.lstsq(rows.to_numpy(), target.to_numpy(), rcond=None)[0]
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, [None, len(rows.columns)])
    node = helper.make_node("MatMul", ["row", "weights"], ["value"])
    held = numpy_helper.from_array(weights.astype("float32").reshape(-1, 1), "weights")
    value = helper.make_tensor_value_info("value", TensorProto.FLOAT, [None, 1])
    graph = helper.make_graph([node], "line", [row], [value], [held])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    mlflow.onnx.save_model(model, str(run.folder / "made"))
    return run.folder / "made"


def torch(run):
    import mlflow.pytorch
    import torch

    torch.manual_seed(run.seed)
    net = torch.nn.Sequential(torch.nn.Linear(len(run.features), 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    rows, target = _rows(run)
    x, y = (torch.tensor(one.to_numpy(), dtype=torch.float32) for one in (rows, target))
    steps = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(30):
        steps.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x)[:, 0], y)
        loss.backward()
        steps.step()
        run.log(loss=loss.item())
    net.eval()
    mlflow.pytorch.save_model(net, str(run.folder / "made"), input_example=rows.head(3).to_numpy(dtype="float32"))
    return run.folder / "made"


def plain(run):
    """A pyfunc model kept as code, not as a pickle."""
    import mlflow.pyfunc

    code = run.folder / "doubled.py"
    code.write_text(
        "import mlflow\n\n\n"
        "class Doubled(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return (2 * model_input['a']).to_numpy()\n\n\n"
        "mlflow.models.set_model(Doubled())\n"
    )
    mlflow.pyfunc.save_model(str(run.folder / "made"), python_model=str(code))
    return run.folder / "made"
