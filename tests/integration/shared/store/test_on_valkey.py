"""All that tests/unit/shared/store promises, on a real Valkey: the same tests, with the connections of this folder."""

from tests.unit.shared.store.test_arq_names import *  # noqa: F403
from tests.unit.shared.store.test_batches import *  # noqa: F403
from tests.unit.shared.store.test_calls_sent_twice import *  # noqa: F403
from tests.unit.shared.store.test_cancelling import *  # noqa: F403
from tests.unit.shared.store.test_claiming import *  # noqa: F403
from tests.unit.shared.store.test_deliveries import *  # noqa: F403
from tests.unit.shared.store.test_delivery_life import *  # noqa: F403
from tests.unit.shared.store.test_disowning import *  # noqa: F403
from tests.unit.shared.store.test_finishing import *  # noqa: F403
from tests.unit.shared.store.test_job_life import *  # noqa: F403
from tests.unit.shared.store.test_leases import *  # noqa: F403
from tests.unit.shared.store.test_listing import *  # noqa: F403
from tests.unit.shared.store.test_payloads import *  # noqa: F403
from tests.unit.shared.store.test_resuming import *  # noqa: F403
from tests.unit.shared.store.test_retention import *  # noqa: F403
from tests.unit.shared.store.test_retrying import *  # noqa: F403
from tests.unit.shared.store.test_scripts import *  # noqa: F403
from tests.unit.shared.store.test_submitting import *  # noqa: F403
from tests.unit.shared.store.test_tenants import *  # noqa: F403
from tests.unit.shared.store.test_threads import *  # noqa: F403
from tests.unit.shared.store.test_waking import *  # noqa: F403
from tests.unit.shared.store.test_workers import *  # noqa: F403
