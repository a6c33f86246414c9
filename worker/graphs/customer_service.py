"""Customer service: a coordinator recognises what the customer wants; one of four specialists answers.

    START ─▶ coordinator ─▶ sales | support | field_service | manager ─▶ END

Input is `{"messages": […]}`. The output adds the answer, whose `name` is the specialist's, `handled_by` and `intent`.
With a thread, the messages of earlier jobs are part of the conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from worker.models import chat_model

SpecialistName = Literal["sales", "support", "field_service", "manager"]
FALLBACK: SpecialistName = "support"


class CustomerServiceState(MessagesState):
    """The conversation, what the customer was understood to want, and who answered last."""

    intent: str
    handled_by: SpecialistName


@dataclass(frozen=True)
class Specialist:
    """`handles` is what the coordinator chooses by, `prompt` what the specialist knows."""

    handles: str
    prompt: str


_HOUSE_RULES = """
Answer in the language of the customer's last message, in at most five sentences.
Say what you do not know; promise nothing that is not written here.
"""

SPECIALISTS: dict[SpecialistName, Specialist] = {
    "sales": Specialist(
        handles="""
Prices, costs, how much something is, quotes, plans, offers, discounts, buying, ordering, upgrading or extending a
contract.
价格、多少钱、报价、套餐、优惠、折扣、购买、订购、下单、升级、续约。
""",
        prompt="""
You are the sales specialist of a customer service team.
To quote a price or recommend a plan, ask how many people use the line and which speed they need.
To order, buy or upgrade, ask for the address and the day from which it is wanted, then confirm the order in writing.
A discount or special offer needs the customer's number; offers hold for fourteen days.
你是客服团队的销售专员。
问到多少钱、报价或推荐套餐之前，先问清使用人数和所需网速。
购买、订购或升级，需要地址和希望开通的日期，之后书面确认。
优惠和折扣需要客户编号，报价十四天内有效。
""",
    ),
    "support": Specialist(
        handles="""
Technical trouble that can be solved from afar: faults, error messages, a router, modem or light that blinks, slow or
lost internet, Wi-Fi, login, passwords, settings, how something works.
故障、报错、不能用、路由器、光猫、指示灯、红灯、闪烁、断网、上网、网速慢、无线网络、登录、密码、设置。
""",
        prompt="""
You are the technical support specialist of a customer service team.
If a router or modem blinks or shows a red light, unplug it for thirty seconds, press all cables home and plug it in; \
if the light is still red after two minutes, a technician has to come.
If the internet or Wi-Fi is slow or drops, restart the router, then test with a cable and write down the speed.
For a lost password or a failed login, use the reset link on the sign-in page; never ask for the password itself.
For an error message, ask for its exact words and what was done before it appeared.
你是客服团队的技术支持专员。
路由器或光猫亮红灯、闪烁：断电三十秒，插紧所有线缆，重新通电；两分钟后仍是红灯就需要师傅上门。
网速慢或断网：先重启路由器，再用网线测速并记下结果。
忘记密码或登录失败：使用登录页面的重置链接，绝不索要密码。
出现报错：请客户提供报错原文，以及出现之前做了什么。
""",
    ),
    "field_service": Specialist(
        handles="""
Work at the customer's place: installation, a technician's visit, appointments, repairing, replacing or collecting
equipment, damaged cables.
上门、安装、装机、维修、师傅、预约、改约、更换设备、线路损坏。
""",
        prompt="""
You are the field service planner of a customer service team.
For an installation or a technician's visit, ask for the address, a phone number and two dates in the next ten days.
To move or cancel an appointment, ask for its number; up to a day before, this is free.
To repair or replace equipment or a damaged cable, ask for its serial number and a picture of the damage.
你是客服团队的现场服务调度员。
安装或师傅上门：请客户提供地址、电话，以及十天内的两个日期。
改约或取消预约：请客户提供预约编号，提前一天免费。
维修、更换设备或线路损坏：请客户提供设备序列号和损坏处照片。
""",
    ),
    "manager": Specialist(
        handles="""
Complaints, refunds, compensation, wrong bills, cancelling the contract, anger, lawyers, or whoever asks for a manager
or supervisor.
投诉、退款、赔偿、账单错误、解约、退订、不满、律师、经理、主管、负责人。
""",
        prompt="""
You are the manager of a customer service team.
For a complaint, apologise once, sum up what went wrong, and name the next step and its date.
A refund, compensation or wrong bill is checked within five working days; ask for the number of the invoice.
To cancel a contract, name the notice of one month and ask whether something could be put right first.
你是客服团队的经理。
投诉：道歉一次，概括问题所在，说明下一步和日期。
退款、赔偿或账单错误：五个工作日内核实，请客户提供账单编号。
解约或退订：说明需提前一个月通知，并询问是否还有补救的办法。
""",
    ),
}

_COORDINATOR_PROMPT = """
You are the coordinator of a customer service team.
You do not answer the customer yourself: read the conversation and call the one tool that passes the last message to the
specialist for what the customer wants now. If none fits, call transfer_to_support.
"""
_TRANSFER = "transfer_to_"

TRANSFER_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": f"{_TRANSFER}{name}",
            "description": specialist.handles.strip(),
            "parameters": {
                "type": "object",
                "properties": {
                    "intent": {"type": "string", "description": "What the customer wants, in one sentence of theirs."}
                },
                "required": ["intent"],
            },
        },
    }
    for name, specialist in SPECIALISTS.items()
]


async def coordinator(state: CustomerServiceState) -> dict[str, Any]:
    """Choose who answers. The choice is no message: a tool call without its result would break the conversation."""
    # No forced tool_choice: not every provider takes one.
    model = chat_model("fast").bind_tools(TRANSFER_TOOLS)
    decision = await model.ainvoke(_prompt(_COORDINATOR_PROMPT, state))
    handled_by, intent = read_decision(decision)
    return {"handled_by": handled_by, "intent": intent}


def read_decision(decision: AIMessage) -> tuple[SpecialistName, str]:
    """Who is to answer, and the intent as the coordinator put it.

    A model may write the specialist's name instead of calling the tool. What names no one, or several, goes to support.
    """
    for call in decision.tool_calls:
        name = call["name"].removeprefix(_TRANSFER)
        if name in SPECIALISTS:
            intent = call["args"].get("intent", "")
            return name, intent if isinstance(intent, str) else ""
    text = decision.text.lower().replace(" ", "_")
    named = [name for name in SPECIALISTS if name in text]
    return (named[0] if len(named) == 1 else FALLBACK), ""


class _Node(Protocol):
    async def __call__(self, state: CustomerServiceState) -> dict[str, Any]: ...


def specialist_node(name: SpecialistName) -> _Node:
    """The node in which specialist `name` answers the customer."""

    async def answer(state: CustomerServiceState) -> dict[str, Any]:
        message = await chat_model("strong").ainvoke(_prompt(SPECIALISTS[name].prompt + _HOUSE_RULES, state))
        return {"messages": [message.model_copy(update={"name": name})]}

    return answer


def _prompt(instructions: str, state: CustomerServiceState) -> list[BaseMessage]:
    # Without the specialists' names on earlier answers: not every provider takes a name on a message.
    conversation = [message.model_copy(update={"name": None}) for message in state["messages"]]
    return [SystemMessage(instructions), *conversation]


def build() -> StateGraph[CustomerServiceState, None, MessagesState, CustomerServiceState]:
    """The team as a graph that is not compiled yet."""
    builder = StateGraph(CustomerServiceState, input_schema=MessagesState)
    builder.add_node("coordinator", coordinator)
    builder.add_edge(START, "coordinator")
    builder.add_conditional_edges("coordinator", lambda state: state["handled_by"], list(get_args(SpecialistName)))
    for name in SPECIALISTS:
        builder.add_node(name, specialist_node(name))
        builder.add_edge(name, END)
    return builder


graph = build().compile(name="customer_service")
