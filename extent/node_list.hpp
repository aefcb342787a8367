// Nodes linked through themselves: a node is in at most one list. Node has `list`, `previous` and `next`.
#pragma once

#include "base/assert.hpp"

namespace dynamicfs::extent {

template <class Node>
struct NodeList {
  Node* head = nullptr;
  Node* tail = nullptr;

  void push_back(Node& node) {
    DFS_ASSERT(node.list == nullptr);
    node.list = this;
    node.previous = tail;
    node.next = nullptr;
    (tail != nullptr ? tail->next : head) = &node;
    tail = &node;
  }
  void remove(Node& node) {
    DFS_ASSERT(node.list == this);
    (node.previous != nullptr ? node.previous->next : head) = node.next;
    (node.next != nullptr ? node.next->previous : tail) = node.previous;
    node.list = nullptr;
    node.previous = nullptr;
    node.next = nullptr;
  }
};

}  // namespace dynamicfs::extent
