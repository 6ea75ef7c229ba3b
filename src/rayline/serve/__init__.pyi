from rayline.serve.app import create_app as create_app
from rayline.serve.deployment import Deployment as Deployment
from rayline.serve.deployment import deploy_config as deploy_config
from rayline.serve.deployment import to_deployment as to_deployment
from rayline.serve.options import ServerOptions as ServerOptions
from rayline.serve.server import run as run

__all__: list[str]
